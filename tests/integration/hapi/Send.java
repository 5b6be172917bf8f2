import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.util.Terser;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Sends each file to 127.0.0.1:port with HAPI's client; prints `MSA-1 MSA-2 ERR-3` of each answer, as HAPI parsed it. */
public class Send {
    public static void main(String[] args) throws Exception {
        try (HapiContext context = new DefaultHapiContext()) {
            context.setValidationContext(ValidationContextFactory.defaultValidation());
            Connection connection = context.newClient("127.0.0.1", Integer.parseInt(args[0]), false);
            for (int n = 1; n < args.length; n++) {
                String text = Files.readString(Path.of(args[n]), StandardCharsets.UTF_8);
                Message answer = connection.getInitiator().sendAndReceive(context.getPipeParser().parse(text));
                Terser terser = new Terser(answer);
                String error = terser.get("/.ERR-3-1");
                System.out.println(terser.get("/.MSA-1") + " " + terser.get("/.MSA-2") + " " + (error == null ? "-" : error));
            }
            connection.close();
        }
    }
}
